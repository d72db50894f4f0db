"""Losses other than the plain one: of the next token without all logits, of preferences, judges, texts, policies."""
