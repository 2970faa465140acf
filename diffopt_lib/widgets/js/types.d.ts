// The shapes of what Python sends and of what the modules hand each other. For the type check only; not shipped.

/** A control's value: a number (slider), a point (pad) or a string (choice). */
type Value = number | number[] | string;
type Context = Record<string, Value>;
type Data = Float64Array | string[];
type Solution = Record<string, Data>;

interface Slider {
  kind: "slider";
  name: string;
  label: string;
  unit: string;
  low: number;
  high: number;
  log: boolean;
  integer: boolean;
}
interface Pad {
  kind: "pad";
  name: string;
  label: string;
  unit: string;
  x: [number, number];
  y: [number, number];
  axes: number;
  color: string;
  readout: string;
}
interface Choice {
  kind: "choice";
  name: string;
  label: string;
  options: string[];
}
type Control = Slider | Pad | Choice;

interface Scale {
  low: number;
  high: number;
  log: boolean;
}
/** An axes' box in SVG units with its two scales. */
interface Axes {
  left: number;
  top: number;
  width: number;
  height: number;
  x: Scale;
  y: Scale;
}

type Kind = "points" | "polyline" | "polygon" | "arrows" | "bars" | "heatmap" | "image" | "text";

interface MarkBase {
  name: string;
  label: string;
  axes: number;
  unit: string;
  derivative: boolean;
  readout: string;
  color: string;
  shape: number[];
}
interface PointsMark extends MarkBase {
  kind: "points";
  size: number;
}
interface PolylineMark extends MarkBase {
  kind: "polyline";
  width: number;
  dash: number[] | null;
}
interface PolygonMark extends MarkBase {
  kind: "polygon";
  opacity: number;
  width: number;
}
interface ArrowsMark extends MarkBase {
  kind: "arrows";
  width: number;
}
interface BarsMark extends MarkBase {
  kind: "bars";
  positions: number[] | null;
  width: number;
  base: number;
}
interface HeatMapMark extends MarkBase {
  kind: "heatmap";
  extent: number[];
  colors: number[];
  smooth: boolean;
  vmin: number;
  vmax: number;
}
interface ImageMark extends MarkBase {
  kind: "image";
  extent: number[];
  smooth: boolean;
}
interface TextMark extends MarkBase {
  kind: "text";
  position: number[] | string;
  format: string;
  within: "data" | "axes";
  align: "left" | "center" | "right";
  size: number;
  outline: boolean;
}
type PathMark = PointsMark | PolylineMark | PolygonMark | ArrowsMark | BarsMark;
type PixelMark = HeatMapMark | ImageMark;
type Mark = PathMark | PixelMark | TextMark;

/** One axis of the grid of solved nodes; `values` where nothing lies between the nodes. */
interface GridAxis {
  control: string;
  component: number | null;
  low: number;
  high: number;
  steps: number;
  log: boolean;
  values: (string | number)[] | null;
}

interface TableSpec {
  shape: number[];
  size: number;
  byte: boolean;
  codes: number;
  jumps: number;
  low: number[];
  step: number[];
  span: number[];
  nan: number | null;
  log: boolean[];
  strings: string[] | null;
}
interface TableEntry extends Omit<TableSpec, "codes" | "jumps"> {
  codes: Uint8Array | Int16Array;
  jumps: Uint8Array;
}

/** Along one axis: how many nodes it has, the one below, and the part of the way to the next. */
type GridCell = [nodes: number, below: number, part: number];

/** A grid row with its weight. */
type Corner = [row: number, weight: number];

/** A function in JavaScript, as source, and what it is handed beside the context. */
interface PageSource {
  source: string;
  data: unknown;
}

/** Where a page without a kernel has its solutions from. */
interface Source {
  read(context: Context, key: string): Solution;
  isNearJump(context: Context, names: string[]): boolean;
}

interface Preset {
  set: Context;
  anchor?: Context;
  note?: string;
}

interface Payload {
  title: string;
  description: string;
  svg: string;
  width: number;
  height: number;
  axes: Axes[];
  controls: Control[];
  marks: Mark[];
  grid: GridAxis[];
  /** The solve that the page brings; without one the solutions are in the table. */
  page: PageSource | null;
  nodes: number;
  fine: { cells: number[]; rows: number[]; parts: number };
  tables: Record<string, TableSpec>;
  table: string;
  extras: Context[];
  start: Context;
  anchor: Context;
  presets: Record<string, Preset>;
  error: Record<string, number>;
  snapError: Record<string, number>;
  checks: { context: Context; marks: Record<string, unknown[]> }[];
}

/** What the kernel gives: a solution, and how long the library took. */
interface Solved {
  solution: Solution;
  seconds: number;
}
interface Answer {
  key: string;
  solved?: Solved;
  failure?: string;
}
type Ask = (context: Context) => Promise<Solved>;

/** The kernel's model, as anywidget hands it over. */
interface Model {
  on(event: string, callback: (message: any, buffers: (DataView | ArrayBuffer)[]) => void): void;
  send(message: unknown): void;
}

/** An element that holds a mounted explorer; tests and scripts move it. */
interface ExplorerElement extends HTMLElement {
  explorer?: object;
}
