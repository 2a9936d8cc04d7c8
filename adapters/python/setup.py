"""A wheel carries the extension of the Python that packs it; `./dev build` has put it into the package."""

import sysconfig

from setuptools import Distribution, setup


class Binary(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=Binary,
    package_data={"isthmus": ["py.typed", "*.pyi", f"*{sysconfig.get_config_var('EXT_SUFFIX')}"]},
)
