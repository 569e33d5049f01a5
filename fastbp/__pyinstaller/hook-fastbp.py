"""The digits, and all kernels: Cython's own imports of each other cannot be seen from outside."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

datas = collect_data_files("fastbp")
hiddenimports = collect_submodules("fastbp._kernels")
