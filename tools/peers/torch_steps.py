"""Training steps per second of PyTorch on a CPU: forward, backward and AdamW on random windows, cross-entropy.

    OMP_NUM_THREADS=2 python torch_steps.py MODEL [--batch 8] [--window 256] [--steps 20]

f32, eager attention and PyTorch's own (sdpa) in turn; the median step counts.
"""

import argparse
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model")
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--window", type=int, default=256)
parser.add_argument("--steps", type=int, default=20)
args = parser.parse_args()

for attention in ("eager", "sdpa"):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, attn_implementation=attention)
    model.train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    seconds, cpu = [], []
    for _ in range(args.steps):
        tokens = torch.randint(3, model.config.vocab_size, (args.batch, args.window))
        began, used = time.perf_counter(), time.process_time()
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
        cpu.append(time.process_time() - used)
    median = statistics.median(seconds[2:])
    print(f"{attention}: {1 / median:.2f} steps/s, {args.batch * args.window / median:.0f} tokens/s, {statistics.median(cpu[2:]):.3f} CPU s a step")
