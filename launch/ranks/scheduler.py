"""Runs MindSpore's scheduler as a process: ranks find each other through it, and it exits after them.

Run as `python -m convnext_imagenet.launch.ranks.scheduler` with the environment of `rank.scheduler_environment`.
"""

from convnext_imagenet.launch.ranks.heartbeat import tie_to_launcher


def schedule() -> None:
    """Serve the ranks until all of them have exited."""
    tie_to_launcher()

    import mindspore
    from mindspore.communication import init

    mindspore.set_device("CPU")
    init()


if __name__ == "__main__":
    schedule()
