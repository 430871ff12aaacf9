import shutil

from setuptools import Extension, setup

import okcore

extensions = [Extension("from_c", ["from_c.c"], include_dirs=[okcore.get_include()])]
if shutil.which("c++"):
    extensions.append(Extension("from_cpp", ["from_cpp.cpp"], include_dirs=[okcore.get_include()]))
setup(ext_modules=extensions)
