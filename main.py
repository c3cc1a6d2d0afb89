"""Train and evaluate image classifiers on CIFAR-sized images; the installed command `cifar-jax` does the same.

python main.py --config configs/cnn_scratch.py [--workdir DIR] [--config.key=value ...] [--mode MODE]
"""

from cifar_jax.__main__ import main

if __name__ == "__main__":
    main()
