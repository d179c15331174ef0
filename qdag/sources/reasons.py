"""Why something of a delivery is refused, and what is noticed in it: the words of the tables, declared once.

Wherever one is used it is a member of these, so that a word which is not declared cannot be written. Judging rows
belongs to :mod:`qdag.sources.rows`.
"""

from enum import Flag, StrEnum, auto


class Refuses(Flag):
    """What a reason is said of."""

    ROW = auto()
    """A row, or a line that is none."""
    FILE = auto()
    """A file as a whole, or a folder."""
    INSTRUMENT = auto()
    """An instrument that a vendor was asked for."""
    HISTORY = auto()
    """All that is stored of an instrument."""


class Reason(StrEnum):
    """Why something is refused; the value is what the table quarantine holds.

    The reasons for a row stand in the order in which they are looked for: the first one is given.

    Attributes
    ----------
    refuses : what it is said of
    meaning : for people
    dated : whether a row that is refused for it has a date that can be
    """

    refuses: Refuses
    meaning: str
    dated: bool

    def __new__(cls, value: str, refuses: Refuses, meaning: str, dated: bool = True) -> "Reason":
        """Make a member whose value is the text that is stored."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.refuses, member.meaning, member.dated = refuses, meaning, dated
        return member

    BAD_DATE = "bad_date", Refuses.ROW, "the date cannot be read", False
    BAD_INSTRUMENT = (
        "bad_instrument",
        Refuses.ROW | Refuses.FILE,
        "the instrument is missing, malformed or not the one the file is named after",
    )
    WRONG_COLUMNS = "wrong_columns", Refuses.ROW, "the line has more or fewer cells than the header", False
    BROKEN_LINE = (
        "broken_line",
        Refuses.ROW,
        "a quoted cell does not end on its line, or the line is longer than 1 MB",
        False,
    )
    UNKNOWN_DATE = "unknown_date", Refuses.ROW, "the date is no session of the universe's calendar"
    BAD_NUMBER = (
        "bad_number",
        Refuses.ROW,
        "a cell is neither empty nor a finite number, or a price, volume or amount is beyond any exchange's",
    )
    NULL_PRICE = "null_price", Refuses.ROW, "open, high, low or close is empty"
    NULL_VOLUME = "null_volume", Refuses.ROW, "the volume is empty"
    NON_POSITIVE_PRICE = "non_positive_price", Refuses.ROW, "a price is zero or negative"
    NEGATIVE_VOLUME = "negative_volume", Refuses.ROW, "the volume or the amount is negative"
    HIGH_BELOW_LOW = "high_below_low", Refuses.ROW, "high < low"
    CLOSE_OUTSIDE_RANGE = "close_outside_range", Refuses.ROW, "close is outside [low, high]"
    OPEN_OUTSIDE_RANGE = "open_outside_range", Refuses.ROW, "open is outside [low, high]"
    MISPLACED_DATE = (
        "misplaced_date",
        Refuses.ROW,
        "the date has not come yet, or lies outside the universe's time where the rows around it do not",
        False,
    )
    NAME_CLASH = (
        "name_clash",
        Refuses.ROW | Refuses.FILE,
        "another instrument has the same name but for capitals: Qlib keeps both in one folder",
    )
    BAD_EVENT = (
        "bad_event",
        Refuses.ROW,
        "a split, factor, previous or adjusted close is not positive, a dividend is negative, "
        "or the vendor's factor is missing",
    )

    API_ERROR_PAGE = "api_error_page", Refuses.FILE, "the file holds JSON or HTML, as an API answers on an error"
    NOT_A_TABLE = "not_a_table", Refuses.FILE, "the file has no columns"
    EMPTY_FILE = "empty_file", Refuses.FILE, "the file holds nothing"
    HEADER_WITHOUT_ROWS = "header_without_rows", Refuses.FILE, "the file has a header and no row"
    UNKNOWN_COLUMNS = "unknown_columns", Refuses.FILE, "the header lacks columns of the source's layout"
    UNREADABLE = "unreadable", Refuses.FILE, "the file is damaged, truncated or, from its header on, not in UTF-8"
    UNREADABLE_FOLDER = (
        "unreadable_folder",
        Refuses.FILE,
        "the folder cannot be listed: nothing is known of what lies in it",
    )
    SYMBOLIC_LINK = "symbolic_link", Refuses.FILE, "a symbolic link is not followed: put there what it leads to"
    NOT_A_FILE = "not_a_file", Refuses.FILE, "a pipe, a socket or a device"
    BAD_FILE_NAME = "bad_file_name", Refuses.FILE, "the file's name is not UTF-8, or not of the form that is set"

    FETCH_FAILED = (
        "fetch_failed",
        Refuses.INSTRUMENT,
        "the vendor did not deliver the instrument; the row holds its error",
    )
    EMPTY_ANSWER = "empty_answer", Refuses.INSTRUMENT, "the vendor answered, but knows no row of the instrument"

    HISTORY_WITHDRAWN = (
        "history_withdrawn",
        Refuses.HISTORY,
        "a delivery no longer has much of what is stored of the instrument, which is held back as a whole",
    )

    def must(self, refuse: Refuses) -> "Reason":
        """The reason itself; ValueError where it is said of nothing that ``refuse`` names."""
        if not self.refuses & refuse:
            raise ValueError(f"reason {str(self)!r} is said of {self.refuses}, not of {refuse}")
        return self


ROW_REASONS = tuple(reason for reason in Reason if Refuses.ROW in reason.refuses)
"""Those of a row, the first to be looked for first."""
UNDATED = tuple(reason for reason in Reason if not reason.dated)
"""Of the reasons for a row: those of a row that has no date, or none that can be."""


class FindingKind(StrEnum):
    """What is noticed in rows that are stored all the same; the value is what the table findings holds.

    Attributes
    ----------
    meaning : for people
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "FindingKind":
        """Make a member whose value is the text that is stored."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    NOT_ADJUSTED = "not_adjusted", "nothing tells the factor, which is 1"
    FACTOR_GAP = "factor_gap", "an event without a usable previous close: the factor does not change"
    EVENT_REFUSED = "event_refused", "an event that no price shows, or that is none: the factor does not follow it"
    FACTOR_DIFFERENCE = "factor_difference", "the factor is not what else the vendor tells"
    FACTOR_CONVENTION = "factor_convention", "the same, as far as a way of reinvesting dividends explains it"
    TICKER_REUSE = "ticker_reuse", "rows that look like another company's under a used name"
