"""What a measurement, a verdict or a study looks like once it is taken: frozen, plain, versioned JSON.

Standard library only: a page is rendered from records alone, long after torch has gone.
"""

from normscope.records.check import CheckReport as CheckReport
from normscope.records.check import Finding as Finding
from normscope.records.check import Fixed as Fixed
from normscope.records.check import GapSplit as GapSplit
from normscope.records.check import Share as Share
from normscope.records.figure import Figure as Figure
from normscope.records.figure import Mark as Mark
from normscope.records.figure import Measurement as Measurement
from normscope.records.figure import Series as Series
from normscope.records.file import sweep as sweep
from normscope.records.file import write_atomic as write_atomic
from normscope.records.study import Effect as Effect
from normscope.records.study import Outcome as Outcome
from normscope.records.study import Regime as Regime
from normscope.records.study import Run as Run
from normscope.records.study import Study as Study
from normscope.records.study import Verdict as Verdict
from normscope.records.text import SCHEMA as SCHEMA
from normscope.records.text import from_json as from_json
from normscope.records.text import to_json as to_json
