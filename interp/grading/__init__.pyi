from .outcomes import AnswerFormat as AnswerFormat
from .outcomes import Outcome as Outcome
from .outcomes import equals as equals
from .outcomes import extract_answer as extract_answer
from .outcomes import is_correct as is_correct
from .outcomes import outcome as outcome
from .reasoning_effect import accuracy_rows as accuracy_rows
from .reasoning_effect import paired_rows as paired_rows
