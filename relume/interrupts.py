"""SIGTERM and SIGHUP end a program as Ctrl-C does: what it started is ended, and what it keeps stays whole."""

import signal


def end_like_ctrl_c() -> None:
    """Makes SIGTERM and SIGHUP interrupt the main thread; what was set by others, such as `nohup`, stays."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
