// Error-free transforms (Dekker, Veltkamp): exact without relying on a fused multiply-add.

void split_in_halves(float a, out float high, out float low) {
  precise float c = 4097.0 * a;
  precise float rest = c - a;
  precise float h = c - rest;
  precise float l = a - h;
  high = h;
  low = l;
}

// a * b - product, exactly, where product = a * b rounded and nothing over- or underflows.
float product_error(float a, float b, float product) {
  float ah, al, bh, bl;
  split_in_halves(a, ah, al);
  split_in_halves(b, bh, bl);
  precise float error = ah * bh - product;
  error = error + ah * bl;
  error = error + al * bh;
  error = error + al * bl;
  return error;
}

// a + b - sum, exactly, where sum = a + b rounded and |a| >= |b| or a = 0.
float sum_error(float a, float b, float sum) {
  precise float rest = sum - a;
  precise float error = b - rest;
  return error;
}
