"""The command line and one file an experiment: a question of the papers in, tables and figures out."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # experiments of one's own: a folder `experiments` on PYTHONPATH
