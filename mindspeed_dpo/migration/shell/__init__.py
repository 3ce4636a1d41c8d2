"""Reading of shell scripts as text: words, variables and integer arithmetic. Nothing is executed."""
