#!/usr/bin/env bash
# Installs what is missing, builds, and runs all tests: C++ through ctest, the command line, Python and the reference model through pytest,
# the format of the code.
# The last line counts them: N passed, N failed, N skipped. Tests that need a GPU are skipped without one.
set -uo pipefail
cd "$(dirname "$0")/.."
. experiments/setup.sh

set -e
install_packages "${PACKAGES[@]}"
install_python .venv analysis/requirements-test.txt
build
set +e

passed=0 failed=0 skipped=0
mkdir -p build/reports

say "C++ tests"
# RapidCheck draws its seed from the clock unless told otherwise: a failure must be one that can be seen again.
RC_PARAMS="seed=20250811" ctest --preset release --output-junit "$PWD/build/reports/ctest.xml" >build/reports/ctest.log 2>&1
# Failures whole; skips are counted by reason below.
sed -n '/\*\*\*Failed/,/^ *[0-9]*\/[0-9]* Test/p' build/reports/ctest.log | head -n 200
grep -E 'tests passed|tests failed' build/reports/ctest.log
[ -s build/reports/ctest.xml ] || { tail -n 40 build/reports/ctest.log; failed=$((failed + 1)); }

say "command line and Python tests"
export HINDSIGHT_BIN=$PWD/build/release/apps/hindsight/hindsight PYTHONPATH=$PWD/analysis:$PWD PYTHONDONTWRITEBYTECODE=1
.venv/bin/python -m pytest -q -rs -p no:cacheprovider --junitxml=build/reports/pytest.xml tests/cli tests/python
[ -s build/reports/pytest.xml ] || failed=$((failed + 1))

say "reference model"
# Where the distribution has no PyTorch they are skipped, with that as the reason.
if install_torch; then torch_python=.venv-torch/bin/python; else torch_python=.venv/bin/python; fi
"$torch_python" -m pytest -q -rs -p no:cacheprovider --junitxml=build/reports/pytest-torch.xml tests/reference_model
[ -s build/reports/pytest-torch.xml ] || failed=$((failed + 1))

say "format of the code"
# The whole tree, as .clang-format says.
if git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs .venv/bin/clang-format --dry-run -Werror 2>build/reports/format.log; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  grep -c error build/reports/format.log | sed 's/$/ places are not formatted; .venv\/bin\/clang-format -i FILE mends them:/'
  grep -oE '^[^:]+' build/reports/format.log | sort | uniq -c | head -n 20
fi

# Counts of both, and why what was skipped was skipped.
counts=$(.venv/bin/python - build/reports/ctest.xml build/reports/pytest.xml build/reports/pytest-torch.xml <<'PY'
import collections, os, re, sys
import xml.etree.ElementTree as ElementTree

passed = failed = 0
reasons = collections.Counter()
for file in sys.argv[1:]:
    if not os.path.exists(file):
        continue
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            failed += 1
        elif skip is not None or case.get("status") in ("notrun", "disabled"):
            # GoogleTest says why in what it prints; pytest in the message, or for a whole module only in the text.
            printed = (case.findtext("system-out") or "") + "\n" + (case.findtext("skipped") or "")
            said = re.search(r": Skipped\n(.+)", printed) or re.search(r"'Skipped: (.+)'\)", printed)
            reasons[said[1] if said else skip.get("message", "no reason given")] += 1
        else:
            passed += 1
for reason, count in sorted(reasons.items()):
    print(f"skipped: {count}: {reason}", file=sys.stderr)
print(passed, failed, sum(reasons.values()))
PY
)
read -r more_passed more_failed more_skipped <<<"$counts"
passed=$((passed + more_passed)) failed=$((failed + more_failed)) skipped=$((skipped + more_skipped))
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
