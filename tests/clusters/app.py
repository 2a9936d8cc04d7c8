"""What the tests call, on the cluster that the environment names."""

import os
import pathlib
import threading
import time

import isthmus


def cluster():
    if "SCHEDULER" in os.environ:
        from distributed import Client

        return Client(os.environ["SCHEDULER"], timeout=5).get_executor()
    import ray

    from isthmus.ray import RayExecutor

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    return RayExecutor()


@isthmus.export(executor=cluster)
def pid():
    return os.getpid()


@isthmus.export(executor=cluster)
def double(array):
    return array * 2


@isthmus.export(executor=cluster, batch=isthmus.Batch(max=2, wait=5))
def totals(arrays):
    return [float(array.sum()) for array in arrays]


@isthmus.export(executor=cluster)
def fail(word):
    raise LookupError(word)


@isthmus.export(executor=cluster)
def unpicklable():
    return threading.Lock()


@isthmus.export(executor=cluster)
def die():
    os._exit(3)


@isthmus.export(executor=cluster)
def hold(folder, array=None):
    """Tells who has begun in a file of `folder`; ends once `folder`/open is there."""
    folder = pathlib.Path(folder)
    (folder / str(os.getpid())).touch()
    while not (folder / "open").exists():
        time.sleep(0.01)
    return os.getpid()


@isthmus.export
def here():
    return os.getpid()
