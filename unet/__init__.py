"""The workload: a U-Net that colorizes driving frames."""
