"""`python -m cifar_jax`: the same as the command `cifar-jax`."""

from cifar_jax.cli import main

if __name__ == "__main__":
    main()
