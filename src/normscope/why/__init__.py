"""The claims about batch norm: statement, arms, paired runs, verdict."""
