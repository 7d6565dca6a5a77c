() => {
  const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
  const lum = ([r, g, b]) => { const f = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const over = (a, b) => { const k = a.length > 3 ? a[3] : 1; return [0, 1, 2].map(i => a[i] * k + b[i] * (1 - k)); };
  const ground = e => { const all = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    all.push(c); if (c.length === 3 || c[3] === 1) break; } return all.reverse().reduce((b, a) => over(a, b), [255, 255, 255]); };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim()).map(n => n.textContent.trim()).join(' ');
    if (!own || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest('[disabled], .image-frame, script, style')) continue;
    const style = getComputedStyle(e), back = ground(e), front = over(parse(style.color), back);
    const [x, y] = [lum(front), lum(back)].sort((p, q) => q - p), ratio = (x + .05) / (y + .05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) low.push(`${own.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return low;
}