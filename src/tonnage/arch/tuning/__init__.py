"""What is trained beside or inside a frozen model, as peft's and adapters' own forward passes write it."""
