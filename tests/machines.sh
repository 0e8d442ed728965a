#!/usr/bin/env bash
# The tests as other processors would run them: with the kernels of older ones, beside other work, in random order, deaf to Ctrl-C
# as in a shell's background, and on one core. From the repository's root: tests/machines.sh [pytest's arguments], such as -m ''.
# A process dies of an illegal instruction where its kernels need what the processor lacks: SkylakeX's, AVX-512.
set -uo pipefail
read -ra pytest <<<"${PYTEST:-.venv/bin/pytest -n auto --dist worksteal}"
failed=()

try() { # name, command…
	echo "--- $1"
	"${@:2}" || failed+=("$1")
}

busy() { # command…, beside two loops
	local loops=() code
	for _ in 1 2; do
		while :; do :; done &
		loops+=($!)
	done
	"$@"
	code=$?
	kill "${loops[@]}"
	wait "${loops[@]}" 2>/dev/null
	return $code
}

background() { # command…, as a shell without job control begins it
	bash -c '"$@" & wait $!' - "$@"
}

try "Haswell, no vector units for PyTorch, random order" \
	env OPENBLAS_CORETYPE=Haswell ATEN_CPU_CAPABILITY=default "${pytest[@]}" --shuffle 1 "$@"
try "Prescott, NumPy without AVX2 (by the names that NumPy 2.4 gives them), MKL and PyTorch with it, beside other work, in the background" \
	busy background env OPENBLAS_CORETYPE=Prescott NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4" \
	MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2 "${pytest[@]}" "$@"
kernels=$(grep -qw avx512f /proc/cpuinfo && echo SkylakeX || echo Sandybridge)
try "$kernels, random order, one core" env OPENBLAS_CORETYPE="$kernels" taskset -c 0 "${pytest[@]}" --shuffle 2 "$@"

if ((${#failed[@]})); then
	printf 'failed: %s\n' "${failed[@]}" >&2
	exit 1
fi
