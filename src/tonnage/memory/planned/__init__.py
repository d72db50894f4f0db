"""Memory that is planned before a program runs: one arena for every tensor that it makes (ExecuTorch)."""
