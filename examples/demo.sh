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

# Second act: the unit of 144 H800s that decodes DeepSeek-V3, as DeepSeek runs it: attention by data, 256 experts and 32
# copies spread over all, two halves of the batch by turns. DeepSeek published 14,800 output tokens per second and node of
# eight for it (open-infra-index, day 6: 4,989 cached tokens in the mean, about 50 ms a token), 1,850 a GPU.
run archsim run h800 deepseek-v3 --system h800-x144 --phase decode --batch 11808 --ctx 4989 --quant fp8 --tp 1 \
    --redundant 32 --routing balanced --out demo-output/h800-x144-decode.h5 \
    --timeline demo-output/h800-x144-decode.json
python - <<'END'
import archsim
step = archsim.load_result("demo-output/h800-x144-decode.h5")
node = 8 * step.tokens_per_s / step.meta["chips"]
print(f"\n82 sequences a GPU, {step.time_s * 1e3:.1f} ms a token: {node:,.0f} tokens/s and node simulated, 14,800 published")
END

printf '\nWritten:\n'
ls -l demo-output
