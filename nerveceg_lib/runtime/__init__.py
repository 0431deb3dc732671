"""Plumbing below the method: errors, files and folders, seeds, threads and devices."""

from nerveceg_lib.runtime.process import configure
