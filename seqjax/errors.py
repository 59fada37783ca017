"""The one exception that means: what the user asked for cannot be done, and here is what to do instead."""


class UserError(ValueError):
    """The input, a setting or a file is at fault, not the program.

    The message is one line, says what is wrong, and says what to do. Commands print it without a traceback and exit with status 1.

    Example:
      >>> raise UserError("book.txt is empty; give a file with some text")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: book.txt is empty; give a file with some text
    """
