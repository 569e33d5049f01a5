/* Two numbers of bfloat16 in each 32-bit lane, for models of the units: inputs and results below 2⁻¹²⁶ are flushed to 0. */
static __m512 flushed(__m512 x)
{
    const __mmask16 tiny = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(FLT_MIN), _CMP_LT_OQ);
    return _mm512_mask_and_ps(x, tiny, x, _mm512_set1_ps(-0.0f));
}
static __m512 low_halves(__m512i pairs) { return flushed(_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))); }
static __m512 high_halves(__m512i pairs)
{
    return flushed(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000))));
}
