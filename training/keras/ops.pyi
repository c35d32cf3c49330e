from flaxmodels.ops import *  # noqa: F403
from flaxmodels.ops import image as image
from flaxmodels.ops import linalg as linalg
from flaxmodels.ops import nn as nn
from flaxmodels.ops import numpy as numpy
