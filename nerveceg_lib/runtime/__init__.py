"""Plumbing below the method: errors, files and folders, parameters, seeds, threads and devices."""

from nerveceg_lib.runtime.parameters import check_parameters
from nerveceg_lib.runtime.process import configure
