"""Fixtures of several files here."""

from tests.gpu.children import gate as gate
from tests.gpu.children import real_child as real_child
