"""The subcommands: what a user may type, as dataclasses. Only running one imports its parts."""
