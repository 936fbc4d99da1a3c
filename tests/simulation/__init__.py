"""
A deterministic simulation: many callers against a modelled API, in virtual time, without sockets.

A history is what one seed decides: who calls, what the API and the network do wrong, who is cancelled, and which
process is killed between which two steps. After each history the simulation checks what must
always hold. Run it by hand::

    make simulate SEEDS=1000000    # histories of the seeds 0 to 999999, on all cores
    make simulate SEEDS=17..17     # one history, with everything that happened in it

The callers run the code of the package. Only the moving of bytes is replaced, see :mod:`tests.simulation.network`.
"""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.simulation]
