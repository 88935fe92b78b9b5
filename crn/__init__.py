"""Competitive Reconstruction Networks: anomaly detection by networks that compete.

Mattes, Richter, Döllner: "Detecting Road Damages in Mobile Mapping Point Clouds using Competitive
Reconstruction Networks", AGILE GIScience Series 4, 7, 2023, doi:10.5194/agile-giss-4-7-2023.

The package imports nothing by itself, so that ``train.py --help`` answers without loading torch.
"""
