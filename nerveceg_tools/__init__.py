"""What goes around the method: command line, papermill runs, sweeps, prediction, report, Kaggle, importers, phantom."""
