"""A namespace: others may have modules in it, too."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)
