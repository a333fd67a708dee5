"""The process that commands the arms, and what talks to it."""
