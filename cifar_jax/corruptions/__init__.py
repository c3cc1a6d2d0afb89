"""The 15 corruptions of CIFAR-10-C, as functions of one image, and the suite that applies them to a split.

D. Hendrycks and T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019. Formulas and parameters are those of the authors' generator, ImageNet-C/create_c/make_cifar_c.py in
https://github.com/hendrycks/robustness (Apache-2.0); the code is not theirs.

An image is float32 (H, W, C) of values 0 to 255, square, of any size; results may exceed that range. Random numbers are
arguments. `suite.py` has the published parameters, draws the random numbers and returns uint8.
"""
