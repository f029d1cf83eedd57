from .interventions import Ablation as Ablation
from .interventions import AblationKind as AblationKind
from .interventions import Knockout as Knockout
from .interventions import Rows as Rows
from .interventions import batch_of as batch_of
from .interventions import intervened as intervened
from .interventions import record_reference as record_reference
