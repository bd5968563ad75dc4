#!/usr/bin/env bash
# The commands of the README, shown as they are typed. Results go to demo-output/.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p demo-output

run() {  # show a command as one would type it, then run it
    printf '\n$'
    for word in "$@"; do case $word in *' '*) printf ' "%s"' "$word" ;; *) printf ' %s' "$word" ;; esac; done
    printf '\n'
    "$@"
}

# One H800, Llama-3.1-8B: a prompt of 4,096 tokens, then one decode step of 32 sequences.
run archsim run h800 llama-3.1-8b --phase prefill --batch 1 --seq 4096 --out demo-output/h800-llama-prefill.h5
run archsim run h800 llama-3.1-8b --phase decode --batch 32 --ctx 4096 --out demo-output/h800-llama-decode.h5 \
    --timeline demo-output/h800-llama-decode.json --html demo-output/h800-llama-decode.html

# DeepSeek-V3, 671 billion parameters in fp8, on 32 of them.
run archsim run h800 deepseek-v3 --phase decode --batch 256 --ctx 4096 --quant fp8 --system h800-x32 \
    --out demo-output/h800-deepseek-decode.h5

# The same on a chip of our own, described in configs/chips/custom-npu.yaml ...
run archsim run custom-npu llama-3.1-8b --phase decode --batch 32 --ctx 4096 --out demo-output/npu-llama-decode.h5
run archsim run custom-npu deepseek-v3 --phase decode --batch 256 --ctx 4096 --quant fp8 --system custom-npu-x16 \
    --out demo-output/npu-deepseek-decode.h5

# ... and with half its memory bandwidth: what changes?
run archsim run custom-npu llama-3.1-8b --phase decode --batch 32 --ctx 4096 --set "memory.bandwidth=3 TB/s" \
    --out demo-output/npu-half-llama-decode.h5
run archsim compare demo-output/npu-llama-decode.h5 demo-output/npu-half-llama-decode.h5

printf '\nWritten:\n'
ls -l demo-output
