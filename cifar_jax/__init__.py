"""cifar_jax: train, fine-tune and evaluate CIFAR-sized image classifiers in JAX."""

__version__ = "0.1.0"
