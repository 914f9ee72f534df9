"""``python -m mmvim`` is ``mmvim``: for launchers, as in ``torchrun -m mmvim train CONFIG --launcher pytorch``."""

from mmvim.cli.main import main

if __name__ == '__main__':
    main()
