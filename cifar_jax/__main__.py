"""The program: `cifar-jax`, `python -m cifar_jax` and main.py start here. Everything else is imported afterwards."""

from cifar_jax import signals


def main() -> None:
    """Runs the command line; from here on, a signal ends it with one line and never with a traceback."""
    signals.watch()
    from cifar_jax.memory import use_huge_pages

    use_huge_pages()
    from cifar_jax import cli

    cli.main()


if __name__ == "__main__":
    main()
