"""Measures how well a cluster routes and answers, compared with baselines.

`baselines` needs scikit-learn and `pictures` needs matplotlib, both from the extra `eval`.
"""

from experts.evaluate.answers import is_right
from experts.evaluate.evaluation import Evaluation, evaluate_methods
from experts.evaluate.grading import Answers

__all__ = ["Answers", "Evaluation", "evaluate_methods", "is_right"]
