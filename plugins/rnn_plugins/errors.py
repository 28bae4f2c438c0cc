"""The one exception that stands for a user's mistake. Its text is the sentence the user reads; it is no place for programming errors."""


class UserError(Exception):
    """Something the user can mend: the message says what came, what was expected and what to do."""
