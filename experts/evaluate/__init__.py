"""How well a cluster routes and answers, beside honest baselines.

`baselines` needs scikit-learn and `pictures` matplotlib: the extra `eval`. Nothing else here does.
"""

from experts.evaluate.answers import is_right
from experts.evaluate.evaluation import Evaluation, evaluate_methods
from experts.evaluate.marks import Answers

__all__ = ["Answers", "Evaluation", "evaluate_methods", "is_right"]
