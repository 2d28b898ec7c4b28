#!/usr/bin/env bash
# The soak of docs/testing.md: soak.sh [KILLS]
# Kills the plugin so often (200) on each route while containers read what is not made yet; many readers within 256 MiB; a power failure.
. "$(dirname "$0")/lib.sh"
export D4C_SOAK_KILLS=${1:-200}
exec "$REPO/hack/tiers.sh" tier3_soak
