from .gamma import CreditRule as CreditRule
from .gamma import Strategy as Strategy
from .rows import credited_rows as credited_rows
from .signals import CreditHeads as CreditHeads
from .signals import Measuring as Measuring
from .trainer import CreditTrainer as CreditTrainer
