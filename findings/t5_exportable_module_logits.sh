#!/usr/bin/env bash
# transformers 5.23, integrations.executorch.Seq2SeqLMExportableModule: its decoder calls the decoder and the last linear
# itself, so what the model does between the two is missing. T5 divides the decoder's result by the square root of its
# width when the table is tied: the exported logits are 8 times those of the model at width 64, 22.6 times for t5-small's
# 512. The likeliest token is the same; temperatures, probabilities and beam scores are not. A BART is not concerned, but
# for its bias of the logits, which is left out too.
# Source: transformers/integrations/executorch.py, models/t5/modeling_t5.py. Exits with 1 when this is no longer so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" -W ignore - <<'PY' 2>"$folder/log" || { tail -5 "$folder/log" && exit 1; }
import sys

import torch
import transformers
from transformers.integrations.executorch import Seq2SeqLMExportableModule

torch.manual_seed(0)
print("torch", torch.__version__, "transformers", transformers.__version__)
t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(
    vocab_size=99, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4, decoder_start_token_id=0))
bart = transformers.BartForConditionalGeneration(transformers.BartConfig(
    vocab_size=99, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
    encoder_ffn_dim=96, decoder_ffn_dim=96))
bart.final_logits_bias.normal_()
source, found = torch.arange(3, 9).view(1, 6), {}
for name, model in (("T5", t5), ("BART", bart)):
    model.eval()
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        wanted = model(input_ids=source, decoder_input_ids=start).logits[0, 0]
        exported = Seq2SeqLMExportableModule(model, max_hidden_seq_length=16, max_cache_length=16).export()
        hidden = exported.exported_encoder.module()(source)
        given = exported.exported_decoder.module()(start, hidden, torch.tensor([0]))[0, 0]
    found[name] = given, wanted
    print(f"{name}: exported {given[:3].tolist()}, the model's {wanted[:3].tolist()}")
ratio = found["T5"][0] / found["T5"][1]
shift = found["BART"][1] - found["BART"][0]
print(f"T5: exported / model {ratio.mean():.4f}; BART: model - exported is its bias: {torch.allclose(shift, bart.final_logits_bias[0], atol=1e-5)}")
sys.exit(not (torch.allclose(ratio, torch.full_like(ratio, 8.0), rtol=1e-3)
              and torch.allclose(shift, bart.final_logits_bias[0], atol=1e-5)))
PY
