"""The flags of SGLang that weft does not have, by subject, with what to use instead.

Flags that weft will have are fields of ServerArgs, marked as planned.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RefusedFlags:
    """Flags that are refused for one reason. `advice` says why, and what to use."""

    subject: str
    advice: str
    names: tuple[str, ...]


def _refused(subject: str, advice: str, names: str) -> RefusedFlags:
    return RefusedFlags(subject, advice, tuple(names.split()))


REFUSED_FLAGS: tuple[RefusedFlags, ...] = (
    _refused("retired flags", "use --ep-size with the value of --tp-size", "--enable-ep-moe"),
    _refused(
        "retired flags",
        "SGLang has dropped it too; remove it",
        "--prefill-round-robin-balance --enable-flashinfer-cutlass-moe --enable-flashinfer-cutedsl-moe"
        " --enable-flashinfer-trtllm-moe --enable-triton-kernel-moe --enable-flashinfer-mxfp4-moe"
        " --hybrid-kvcache-ratio --load-watch-interval --crash-on-nan",
    ),
    _refused(
        "kernels",
        "each device has one set of kernels, chosen when weft is built; remove it",
        "--attention-backend --decode-attention-backend --prefill-attention-backend --sampling-backend"
        " --mm-attention-backend --moe-runner-backend --fp8-gemm-backend --fp4-gemm-backend"
        " --flashinfer-mla-disable-ragged --flashinfer-mxfp4-moe-precision --disable-flashinfer-autotune"
        " --flashinfer-allreduce-fusion-backend --enable-flashinfer-allreduce-fusion --enable-aiter-allreduce-fusion"
        " --disable-flashinfer-cutlass-moe-fp4-allgather --enable-fused-grouped-gemm-combine"
        " --enable-fused-qk-norm-rope"
        " --triton-attention-reduce-in-fp32 --triton-attention-num-kv-splits"
        " --triton-attention-split-tile-size --enable-lean-attention --enable-fp32-lm-head"
        " --enable-torch-compile --enable-torch-compile-debug-mode --torch-compile-max-bs --torchao-config",
    ),
    _refused(
        "collectives",
        "the communicator picks the way of each collective; remove it",
        "--disable-custom-all-reduce --enable-mscclpp --enable-torch-symm-mem --enable-symm-mem --enable-nccl-nvls"
        " --pre-warm-nccl --enable-p2p-check --enable-quant-communications",
    ),
    _refused(
        "layouts",
        "weft derives where rows are sharded from the layouts of a layer, and gathers as late as it can; remove it",
        "--enable-attn-tp-input-scattered --disable-attn-tp-gather --enable-dense-mlp-attn-tp"
        " --enable-shared-experts-attn-tp --enable-tp-lm-head-all-to-all",
    ),
    _refused(
        "graphs",
        "use --disable-decode-cuda-graph to run without graphs, or --cuda-graph-max-bs-decode for their sizes",
        "--cuda-graph-config --cuda-graph-tc-compiler --piecewise-cuda-graph-compiler --enable-profile-cuda-graph"
        " --enable-cudagraph-gc --debug-cuda-graph",
    ),
    _refused(
        "graphs",
        "prefill runs eagerly, without graphs; remove it",
        "--cuda-graph-backend-prefill --enable-breakable-cuda-graph --enforce-piecewise-cuda-graph"
        " --cuda-graph-max-bs-prefill --piecewise-cuda-graph-max-tokens --cuda-graph-bs-prefill"
        " --piecewise-cuda-graph-tokens",
    ),
    _refused(
        "parallelism",
        "weft has tensor, attention-data and expert parallelism; use --tp-size, --dp-size and --ep-size",
        "--pp-size --pipeline-parallel-size --pp --pp-max-micro-batch-size --pp-async-batch-depth --dcp-size"
        " --decode-context-parallel-size --attn-cp-size --attention-context-parallel-size --moe-dp-size"
        " --moe-data-parallel-size --enable-prefill-cp --enable-prefill-context-parallel --cp-strategy"
        " --prefill-cp-mode --enable-dsa-prefill-context-parallel --enable-nsa-prefill-context-parallel"
        " --dsa-prefill-cp-mode --nsa-prefill-cp-mode --enable-cp-decode-attn-tp --dwdp-size",
    ),
    _refused(
        "experts",
        "experts stay where the checkpoint's order puts them, and every expert is routed alike; remove it",
        "--ep-num-redundant-experts --ep-dispatch-algorithm --init-expert-location --enable-eplb --eplb-algorithm"
        " --eplb-rebalance-num-iterations --eplb-rebalance-layers-per-chunk"
        " --eplb-min-rebalancing-utilization-threshold --expert-distribution-recorder-mode"
        " --expert-distribution-recorder-buffer-size --enable-expert-distribution-metrics --deepep-config"
        " --enable-deepep-waterfill --deepep-v2-mode --fuseep-mode --enable-w4a4-mxfp4-megamoe"
        " --disable-shared-experts-fusion --enforce-shared-experts-fusion --speculative-moe-a2a-backend",
    ),
    _refused(
        "experts",
        "the ranks of a run are fixed; start again with the sizes you need",
        "--elastic-ep-backend --elastic-ep-rejoin --elastic-ep-initial-size --elastic-ep-join-mode"
        " --elastic-ep-join-rank-offset --elastic-ep-scale-timeout --enable-elastic-expert-backup --max-ep-size"
        " --mooncake-ib-device",
    ),
    _refused(
        "scheduling",
        "requests run first come, first served, and one is admitted when all its tokens fit, so none is retracted;"
        " remove it",
        "--schedule-conservativeness --enable-priority-scheduling --abort-on-priority-when-disabled"
        " --schedule-low-priority-values-first --priority-scheduling-preemption-threshold"
        " --num-continuous-decode-steps --scheduler-recv-interval --prefill-max-requests --enable-dynamic-chunking"
        " --allow-auto-truncate --enable-prefill-delayer --prefill-delayer-max-delay-passes"
        " --prefill-delayer-token-usage-low-watermark --prefill-delayer-queue-min-ratio"
        " --prefill-delayer-max-delay-ms --prefill-delayer-forward-passes-buckets"
        " --prefill-delayer-wait-seconds-buckets"
        " --prefill-decode-interval --min-free-slots-delay --optimistic-prefill-attempts --optimistic-prefill-retries"
        " --enable-dp-attention-local-control-broadcast --sleep-on-idle",
    ),
    _refused(
        "KV cache",
        "the KV cache is in the device's memory, one kind for all layers; size it by --max-total-tokens",
        "--disable-chunked-prefix-cache --enable-hierarchical-cache --hicache-ratio --hicache-size"
        " --hicache-write-policy --hicache-io-backend --hicache-mem-layout --hicache-host-memory-mode"
        " --hicache-storage-backend --hicache-storage-prefetch-policy --hicache-storage-backend-extra-config"
        " --hicache-storage-prefetch-retry-max-attempts --hicache-storage-prefetch-retry-poll-interval"
        " --hierarchical-sparse-attention-extra-config --enable-lmcache --enable-flexkv --flexkv-config-file"
        " --radix-eviction-policy-config --enable-session-radix-cache --enable-unified-cache-external-linker"
        " --unified-cache-external-linker-backend --swa-full-tokens-ratio --disable-hybrid-swa-memory"
        " --c128-page-size --kv-events-config --enable-memory-saver",
    ),
    _refused(
        "other models",
        "weft has DeepSeek-V2, DeepSeek-V3, Qwen3 and Qwen3-MoE text models; remove it",
        "--is-embedding --enable-multimodal --mm-max-concurrent-calls --mm-per-request-timeout"
        " --enable-broadcast-mm-inputs-process --mm-process-config --mm-enable-dp-encoder --limit-mm-data-per-request"
        " --enable-mm-global-cache --mm-global-cache-backend --mm-feature-transport --mm-io-worker-num"
        " --mm-preprocess-cache-size-mb --mm-processor-worker-num --trust-mm-content-hashes --enable-prefix-mm-cache"
        " --disable-fast-image-processor --keep-mm-feature-on-device --enable-precise-embedding-interpolation"
        " --encoder-only --language-only --encoder-transfer-backend --encoder-urls --max-mamba-cache-size"
        " --mamba-ssm-dtype --mamba-full-memory-ratio --mamba-scheduler-strategy --mamba-track-interval"
        " --mamba-max-states-per-path --linear-attn-verify-backend --enable-linear-replayssm"
        " --enable-linear-replayssm-spec --linear-replayssm-cache-len --enable-scattered-sconv --dsa-prefill-backend"
        " --dsa-decode-backend --nsa-prefill-backend --nsa-decode-backend --nsa-prefill --nsa-decode"
        " --dsa-paged-mqa-logits-backend --enable-dsa-cache-layer-split --dsv4-prefill-backend --dllm-algorithm"
        " --dllm-algorithm-config --multi-item-scoring-delimiter --enable-mis --model-impl",
    ),
    _refused(
        "LoRA",
        "weft runs the checkpoint's own weights; merge the adapter into the checkpoint",
        "--enable-lora --enable-lora-overlap-loading --max-lora-rank --lora-target-modules --lora-paths"
        " --max-loras-per-batch --max-loaded-loras --lora-eviction-policy --lora-backend --max-lora-chunk-size"
        " --lora-drain-wait-threshold --uno-lora-path",
    ),
    _refused(
        "weights",
        "weights are read from safetensors files of a local directory, and stay on their rank; remove it",
        "--download-dir --revision --model-checksum --model-loader-extra-config --custom-weight-loader"
        " --weight-loader-disable-mmap --weight-loader-prefetch-checkpoints --weight-loader-prefetch-num-threads"
        " --remote-instance-weight-loader-seed-instance-ip --remote-instance-weight-loader-seed-instance-service-port"
        " --remote-instance-weight-loader-send-weights-group-ports --remote-instance-weight-loader-backend"
        " --remote-instance-weight-loader-start-seed-via-transfer-engine --delete-ckpt-after-loading"
        " --startup-weight-load-mode --weight-cache-mode --weight-cache-socket --weight-cache-timeout"
        " --checkpoint-engine-wait-weights-before-ready --enable-weights-cpu-backup --enable-draft-weights-cpu-backup"
        " --decrypted-config-file --decrypted-draft-config-file --json-model-override-args --cpu-offload-gb"
        " --offload-group-size --offload-num-in-group --offload-prefetch-step --offload-mode --kt-weight-path"
        " --kt-method --kt-cpuinfer --kt-threadpool-count --kt-num-gpu-experts --kt-max-deferred-experts-per-token"
        " --weight-version",
    ),
    _refused(
        "quantisation",
        "a checkpoint carries its own scales; remove it",
        "--quantization-param-path --modelopt-quant --modelopt-checkpoint-restore-path"
        " --modelopt-checkpoint-save-path --modelopt-export-path --quantize-and-serve --rl-quant-profile",
    ),
    _refused(
        "grammars",
        "weft has no grammars; remove it",
        "--grammar-backend --constrained-json-whitespace-pattern --constrained-json-disable-any-whitespace"
        " --disable-outlines-disk-cache",
    ),
    _refused(
        "speculative decoding",
        "weft plans to draft with the checkpoint's own layers (--speculative-algorithm EAGLE), and no more; remove it",
        "--speculative-draft-model-revision --speculative-draft-load-format --speculative-accept-threshold-single"
        " --speculative-accept-threshold-acc --speculative-token-map --speculative-attention-mode"
        " --speculative-draft-attention-backend --speculative-moe-runner-backend --speculative-draft-model-quantization"
        " --speculative-draft-kv-cache-dtype --speculative-use-rejection-sampling --speculative-skip-dp-mlp-sync"
        " --speculative-ngram-min-bfs-breadth --speculative-ngram-max-bfs-breadth --speculative-ngram-match-type"
        " --speculative-ngram-max-trie-depth --speculative-ngram-capacity --enable-multi-layer-eagle"
        " --speculative-dspark-align-verify-tokens-to-graph-tier --speculative-dspark-block-size"
        " --speculative-dspark-confidence-sts-path --speculative-dspark-sps-table-path --decoupled-spec-bind-endpoint"
        " --decoupled-spec-connect-endpoints --decoupled-spec-rank --decoupled-spec-role --spec-trace-dir",
    ),
    _refused(
        "prefill and decode servers",
        "weft plans --disaggregation-mode, its backend and its port, and no more; remove it",
        "--enable-pdmux --pdmux-config-path --sm-group-num --disaggregation-ib-device"
        " --disaggregation-decode-enable-offload-kvcache --disaggregation-decode-polling-interval"
        " --disaggregation-decode-extra-slots --disaggregation-decode-retraction-backup",
    ),
    _refused(
        "tokenizer",
        "weft reads tokenizer.json and its chat template, in the process that asks; use --tokenizer-path",
        "--tokenizer-mode --tokenizer-worker-num --enable-tokenizer-batch-encode --disable-tokenizer-batch-decode"
        " --enable-dynamic-batch-tokenizer --dynamic-batch-tokenizer-batch-size --dynamic-batch-tokenizer-batch-timeout"
        " --chat-template --hf-chat-template-name --completion-template",
    ),
    _refused(
        "server",
        "the HTTP server of weft will have SGLang's main flags only (--host, --port, --api-key ...); remove it",
        "--fastapi-root-path --grpc-mode --smg-grpc-mode --grpc-port --gated-launch-port --sidecar --sidecar-args"
        " --http2-initial-connection-window-size --skip-server-warmup --warmups --admin-api-key --file-storage-path"
        " --reasoning-parser --tool-call-parser --tool-server --preferred-sampling-params"
        " --enable-custom-logit-processor --return-input-ids --return-output-ids",
    ),
    _refused(
        "logs and metrics",
        "Engine.stats() counts what each rank ran, and Engine.timeline() shows when; remove it",
        "--log-requests-target --uvicorn-access-log-exclude-prefixes --crash-dump-folder --show-time-cost"
        " --enable-mfu-metrics --enable-metrics-for-all-schedulers --tokenizer-metrics-custom-labels-header"
        " --tokenizer-metrics-allowed-custom-labels --bucket-time-to-first-token --bucket-inter-token-latency"
        " --bucket-e2e-request-latency --collect-tokens-histogram --prompt-tokens-buckets --generation-tokens-buckets"
        " --gc-warning-threshold-secs --enable-request-time-stats-logging --enable-trace --otlp-traces-endpoint"
        " --export-metrics-to-file --export-metrics-to-file-dir --soft-watchdog-timeout --enable-layerwise-nvtx-marker"
        " --enable-nan-detection --debug-tensor-dump-output-folder --debug-tensor-dump-layers"
        " --debug-tensor-dump-input-file --debug-tensor-dump-inject --msprobe-dump-config --forward-hooks",
    ),
    _refused(
        "other",
        "a row's result never depends on the rest of the batch, so there is nothing to switch on; remove it",
        "--enable-deterministic-inference --rl-on-policy-target",
    ),
    _refused(
        "other",
        "weft returns tokens, text and log-probabilities; remove it",
        "--enable-return-hidden-states --enable-return-routed-experts",
    ),
    _refused("other", "weft reads no file of flags; give them on the command line", "--config"),
    _refused("other", "ranks are threads of one process; bind it with numactl or taskset", "--numa-node"),
    _refused("other", "weft handles no signal; use Engine as a context manager", "--custom-sigquit-handler"),
)

ADVICE_OF_FLAG = {name: entry.advice for entry in REFUSED_FLAGS for name in entry.names}
