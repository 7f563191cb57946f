"""The one error that is the user's to mend."""


class BadInput(ValueError):
    """A setting, file or model that cannot work; the message is one sentence that names it and says what would."""
