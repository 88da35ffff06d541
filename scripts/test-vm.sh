#!/usr/bin/env bash
# The tests on a real kernel, in virtual machines. Without LUO_KERNEL, the path of a kernel image, it says so and does
# nothing. Arguments go to vitest.
set -eu
cd "$(dirname "$0")/.."
if [ -z "${LUO_KERNEL-}" ]; then
  {
    echo 'SKIPPED: nothing in test/vm has been run, since LUO_KERNEL is not set.'
    echo 'Build a kernel (about 11 minutes on 2 processors), and run them:'
    echo '    scripts/build-kernel.sh && LUO_KERNEL=build/kernel/bzImage npm run test:vm'
  } >&2
  exit 0
fi
LUO_KERNEL=$(realpath -e "$LUO_KERNEL") && export LUO_KERNEL
npm run --silent build
exec node node_modules/vitest/vitest.mjs run --project vm "$@"
