from .datasets import Fields as Fields
from .datasets import read_questions as read_questions
from .datasets import read_traces as read_traces
from .examples import Question as Question
from .examples import Task as Task
from .examples import TraceText as TraceText
