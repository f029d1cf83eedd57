from .overlap import edit_distance as edit_distance
from .overlap import jaccard as jaccard
from .rollouts import Fork as Fork
from .rollouts import trunk as trunk
