"""What a person types: one module per verb. Exit codes, printing and the environment are known only here."""
