from Cython.Build import cythonize
from setuptools import setup

setup(ext_modules=cythonize("from_cython.pyx", language_level=3))
